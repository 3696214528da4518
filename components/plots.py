"""`python -m components.plots FILE`: the page that `dvc plots show` fills, with the scripts that draw its charts.

DVC's own page loads Vega from a content delivery network, and offline it stays blank. `make setup` writes this one to
where `.dvc/config` names it (`plots.html_template`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from segmodels.files import write_text

# `{scripts}` would bring the network's addresses back; DVC asks only that the charts have a place.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Plots</title>
<script>SCRIPTS</script>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem; }
body > div { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }
table { border-spacing: 1rem; }
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def write(out: Path) -> None:
    """Write the page."""
    import vl_convert

    scripts: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    # A script ends where the text says so, also within a string.
    write_text(out, PAGE.replace("SCRIPTS", scripts.replace("</script", "<\\/script")))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
