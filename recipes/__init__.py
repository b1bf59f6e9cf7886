"""Recipes: how the files under assets/ were made. Nothing in the product imports from here."""
