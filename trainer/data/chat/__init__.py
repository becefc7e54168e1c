"""Conversations: prompts that are given and answers that are learnt."""
