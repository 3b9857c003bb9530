"""The help of the command line: options under headings, whole summaries, examples as typed.

Leans on names inside typer, whose own help without colours has one list of options and cuts its
summaries; tests/commands/test_help.py names them.
"""

import inspect
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from types import FrameType
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from commands.console import fail, print_line

_Function = TypeVar("_Function", bound=Callable[..., None])
_REST = "Options"
_LIMIT = 1 << 16  # of a summary: none is so long
# What typer calls the kind of a value, to what a reader does.
_TYPES = {
    **dict.fromkeys(("int", "int range"), "integer"),
    **dict.fromkeys(("float", "float range"), "number"),
    **dict.fromkeys(("str", "list[str]"), "text"),
    "list[Path]": "path",
}
# Rows of examples are not wrapped: they are to be copied. typer's own mark of such a paragraph.
_AS_IS = "\b\n"


def headed(headings: Mapping[str, str]) -> Callable[[_Function], _Function]:
    """Put options of a command under headings in its help.

    Args:
        headings: Heading to names of parameters, spaces between; others stand under "Options".
    """

    def mark(function: _Function) -> _Function:
        places = {name: each for each, names in headings.items() for name in names.split()}
        vars(function)["headings"] = places
        return function

    return mark


class _Summarized:
    """What has a summary: the first sentence of its description, whole, in completion too."""

    def get_short_help_str(self, limit: int = _LIMIT) -> str:
        """Return it."""
        found: str = super().get_short_help_str(max(limit, _LIMIT))  # type: ignore[misc]
        return found


class Command(_Summarized, TyperCommand):
    """A command whose options stand under headings: ``headed``, or their ``rich_help_panel``."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description, and examples without wrapping them."""
        described = self.help
        self.help = "\n\n".join(
            _AS_IS + paragraph if paragraph.startswith("Example") else paragraph
            for paragraph in inspect.cleandoc(described or "").split("\n\n")
        )
        try:
            super().format_help_text(ctx, formatter)
        finally:
            self.help = described

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options of each heading, those without one last."""
        headings: dict[str, str] = getattr(self.callback, "headings", {})
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        rest: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            panel: str | None = getattr(parameter, "rich_help_panel", None)
            panel = headings.get(parameter.name, panel)
            if parameter.param_type_name == "argument":
                panel = "Arguments"
            section = rest if panel is None else sections.setdefault(panel, [])
            section.append(_plain(*record))
        for heading, records in {**sections, _REST: rest}.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; an error of the parser names the command, as the others do."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:
                vars(error)["ctx"] = ctx
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run it; Ctrl-C ends it with a line and 130, as shells report the signal.

        Notes of the KeyboardInterrupt say what was kept and how to go on.
        """
        try:
            with _hearing_ctrl_c():
                if self.name not in _WITHOUT_CHECK:
                    _check_names()
                return super().invoke(ctx)
        except BrokenPipeError as error:  # which typer would make a 1
            fail(error)
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, typer.Exit) or not is_stopped(error):
                raise
            notes = getattr(error, "__notes__", None) or ["repeat the command"]
            said = ["stopped by Ctrl-C", *notes]
            print_line(f"{ctx.command_path}: {'; '.join(said)}", is_error=True)
            raise typer.Exit(130) from None


def _plain(option: str, text: str) -> tuple[str, str]:
    """Return a row of a help text without Python's names of types, and defaults as one form."""
    option = re.sub("<(.+?)>", lambda found: f"<{_TYPES.get(found[1], found[1])}>", option)
    return option, re.sub(r"default: \(([^]]+?)\)(?=[];])", r"default: \1", text)


# Commands that say all that is wrong with settings themselves, or need none.
_WITHOUT_CHECK = frozenset({"serve", "doctor", "help", "completion"})


def _check_names() -> None:
    """Refuse a variable ``FOVEAL_*`` that has no effect: it is a misspelt setting.

    Raises:
        SettingsError: There are some; the message names each.
    """
    if not any(name.upper().startswith("FOVEAL_") for name in os.environ):
        return
    from service.settings import SettingsError, unknown_names

    if wrong := unknown_names("HOST"):  # of `foveal serve`, and every command of the image has it
        raise SettingsError("; ".join(wrong))


# Whether Ctrl-C came to the command that runs; at most one runs in a process.
_heard = Event()


@contextmanager
def _hearing_ctrl_c() -> Iterator[None]:
    """Note when Ctrl-C comes, and raise KeyboardInterrupt as Python does."""

    def hear(number: int, frame: FrameType | None) -> None:
        _heard.set()
        signal.default_int_handler(number, frame)

    _heard.clear()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or current_thread() is not main_thread():
        yield
        return
    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is hear:
            signal.signal(signal.SIGINT, before)


def stop_if_heard() -> None:
    """Raise the KeyboardInterrupt that an import passed over.

    Raises:
        KeyboardInterrupt: Ctrl-C came while the command ran.
    """
    if _heard.is_set():
        raise KeyboardInterrupt


def is_stopped(error: BaseException) -> bool:
    """Return whether an error is what Ctrl-C became.

    In the import of a compiled module it comes out as an ImportError, and those after it fail, too.
    """
    return isinstance(error, KeyboardInterrupt) or _heard.is_set()


@contextmanager
def stoppable(kept: str | Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C in the block say what was kept and how to go on.

    Args:
        kept: That, or what returns it when it is needed.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(kept if isinstance(kept, str) else kept())
        raise


class Group(_Summarized, TyperGroup):
    """A group of commands whose summaries are whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command with the first sentence of its description."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, each.get_short_help_str()) for name, each in commands if each]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def show_help(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="Command, as train or models list."),
    ] = None,
) -> None:
    """Show the help of a command, or of all.

    Example: foveal help models list
    """
    parent: Any = context.find_root()
    for word in words or ():
        find = getattr(parent.command, "get_command", None)
        command: Any = find(parent, word) if find else None
        if command is None:
            parent.fail(f"No such command {word!r}")
        parent = typer.Context(command, parent=parent, info_name=word, **command.context_settings)
    for line in parent.get_help().splitlines():
        print_line(line)
