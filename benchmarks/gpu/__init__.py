"""What is measured on a GPU, each measurement in a process of its own."""
