"""A contract for import-linter that it does not bring: modules of a package that others may import; no other may be."""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.domain.helpers import module_expressions_to_modules


class AllowList(Contract):
    """`source_modules` import of `package` only what is `allowed`; a module that is new there is not.

    What is below `except_modules` is left out. Only direct imports count. Expressions as elsewhere (`a.b.**`).
    """

    type_name = "allow_list"

    source_modules: Any = fields.SetField(subfield=fields.ModuleExpressionField())
    package: Any = fields.StringField()
    allowed: Any = fields.SetField(subfield=fields.ModuleExpressionField())
    except_modules: Any = fields.SetField(subfield=fields.ModuleExpressionField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        def named(expressions: Any) -> set[str]:
            return {module.name for module in module_expressions_to_modules(graph, expressions or ())}

        allowed = named(self.allowed)
        found = [
            {"importer": importer, "imported": imported, "lines": _lines(graph, importer, imported)}
            for importer in sorted(named(self.source_modules) - named(self.except_modules))
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if f"{imported}.".startswith(f"{self.package}.") and imported not in allowed
        ]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for each in check.metadata["found"]:
            output.print_error(f"{each['importer']} imports {each['imported']} ({each['lines']}), which is not public")


def _lines(graph: ImportGraph, importer: str, imported: str) -> str:
    details = graph.get_import_details(importer=importer, imported=imported)
    return ", ".join(f"l. {each['line_number']}" for each in details)
