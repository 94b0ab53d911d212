"""The student: `from finerweb.student import SpanBinder`. Written by hand, since importing the package must not import
torch."""

__all__ = ["SpanBinder"]


def __getattr__(name: str) -> object:
    "`SpanBinder` when it is first asked for."
    if name == "SpanBinder":
        from finerweb.student.model import SpanBinder

        return SpanBinder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
