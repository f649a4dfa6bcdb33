"""The nano world: words (CLDR), pictures (emoji scenes) and tiny base models, so that everything runs offline."""
