"""How Sphinx makes slides of these pages; `python notebooks/make_slides.py` calls it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "GPT-2 and LoRA from scratch"
extensions = ["myst_parser", "sphinx_revealjs", "mathml"]
myst_enable_extensions = ["dollarmath"]
html_math_renderer = revealjs_html_math_renderer = "mathml"
revealjs_static_path = ["_static"]
revealjs_style_theme = "white"
revealjs_css_files = ["slides.css"]
revealjs_use_section_ids = True  # slides.css knows some slides by name
revealjs_script_conf = {
    "hash": True,  # the page of a deck is in its address
    "slideNumber": True,
    "navigationMode": "linear",  # the right arrow turns every page
    "center": False,
    "width": 1280,
    "height": 720,
    "margin": 0.06,
}
