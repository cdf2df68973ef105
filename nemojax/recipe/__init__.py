"""The stages of the whole recipe, each built from the packages below."""
