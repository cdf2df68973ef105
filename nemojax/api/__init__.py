"""The verbs of the library, which `import nemojax` offers by their names."""
