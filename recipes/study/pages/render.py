"""A study's page, in the layout that the study asks for."""

from __future__ import annotations

from pathlib import Path

from recipes.study.design.settings import Study
from recipes.study.pages.brief import Brief
from recipes.study.pages.page import Page


def page_text(study: Study, config: str) -> str:
    """Markdown; pictures are drawn beside the records on the way."""
    return Brief(study, config).text() if study.layout == "brief" else Page(study, config).text()


def render(study: Study, config: str) -> Path:
    """Write the page and its pictures; returns the page's path."""
    path = Path(study.page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page_text(study, config), encoding="utf-8")
    return path
