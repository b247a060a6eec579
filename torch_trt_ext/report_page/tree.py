"""The model's modules as a tree, with what of each runs in which engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch_trt_ext.report_page.facts import Facts


@dataclass
class Module:
    """A module of the model, with all that is in it.

    Attributes:
        path: its path; empty for the model itself.
        facts: its entry in the report.
        engines: how many of its operators run in each engine.
        left: how many of its nodes stay in PyTorch.
        children: in the order in which they run.
    """

    path: str
    facts: Facts
    engines: dict[str, int]
    left: int
    children: list[Module] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    @property
    def size(self) -> int:
        """Its operators and nodes."""
        return sum(self.engines.values()) + self.left

    @property
    def is_mixed(self) -> bool:
        """Whether it is divided between several places."""
        return len(self.engines) + (self.left > 0) > 1


@dataclass(frozen=True)
class Row:
    """A module in a drawing.

    Attributes:
        module: the module.
        depth: modules above it.
        parent: its parent's place among the rows; None for the model itself.
        is_folded: whether its children are not drawn.
    """

    module: Module
    depth: int
    parent: int | None
    is_folded: bool


def module_tree(report: Facts) -> Module | None:
    """The model as a tree of modules; None where the report does not know them."""
    modules: dict[str, Module] = {}
    for entry in report["coverage"]["modules"].items():
        engines = {name: _count(number) for name, number in entry["engines"].entries()}
        module = Module(entry["path"].text(), entry, engines, _count(entry["left"]))
        modules[module.path] = module
        above = module.path
        while above:
            above = above.rpartition(".")[0]
            if above in modules:
                modules[above].children.append(module)
                break
    return modules.get("")


def _count(number: Facts) -> int:
    return number.value if isinstance(number.value, int) else 0


def rows_of(root: Module, limit: int) -> list[Row]:
    """The modules to draw, from the root down: those that are divided are unfolded first, then the
    others level by level.

    Args:
        root: of the tree.
        limit: how many rows there may be. The model's own children are always drawn, and those that are divided may
            take twice as many.
    """
    unfolded = {root.path}
    count = 1 + len(root.children)
    waiting = list(root.children)
    while waiting:
        waiting.sort(key=lambda module: (not module.is_mixed, module.path.count("."), -module.size))
        fitting = (m for m in waiting if count + len(m.children) <= (2 * limit if m.is_mixed else limit))
        chosen = next(fitting, None)
        if chosen is None:
            break
        waiting.remove(chosen)
        unfolded.add(chosen.path)
        count += len(chosen.children)
        waiting += chosen.children
    rows: list[Row] = []

    def add(module: Module, depth: int, parent: int | None) -> None:
        is_folded = module.path not in unfolded and bool(module.children)
        place = len(rows)
        rows.append(Row(module, depth, parent, is_folded))
        if not is_folded:
            for child in module.children:
                add(child, depth + 1, place)

    add(root, 0, None)
    return rows
