"""``torch-trt-ext completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete this command.

    \b
    bash: eval "$(torch-trt-ext completion bash)" in ~/.bashrc
    zsh:  eval "$(torch-trt-ext completion zsh)" in ~/.zshrc
    fish: torch-trt-ext completion fish > ~/.config/fish/completions/torch-trt-ext.fish
    """
    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "torch-trt-ext", "_TORCH_TRT_EXT_COMPLETE").source())
