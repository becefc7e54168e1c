"""How a command's flags become one frozen settings object: spelled as its fields, from the command line alone."""

from __future__ import annotations

from typing import NoReturn

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


class CommandLine(BaseSettings):
    """What all commands share: how flags are spelled, and that they come from the command line alone."""

    model_config = SettingsConfigDict(
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def refuse(name: str, rule: str, value: object) -> NoReturn:
    """Raises `ParameterError`. It is imported here, as its house takes seconds to enter, and help must not wait for that."""
    from token_diffusion.errors import ParameterError

    raise ParameterError(name, rule, value)
