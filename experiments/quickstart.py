"""From a language model to a dictionary, its metrics, the layers' geometry and a page.

    python experiments/quickstart.py                      # the shipped model, about 3 minutes
    python experiments/quickstart.py --name k16 --k 16    # any setting can be changed

The steps are `jaxinterp.cli.demo`. Results: `report.html`, `metrics.json`, `dictionary/` and
`figures/` under `runs/<name>/`. A run that was stopped goes on where it was.
"""

import sys

from configs.quickstart import config
from jaxinterp.cli import demo, parse
from jaxinterp.running import run

if __name__ == "__main__":
    sys.exit(run(demo, lambda: parse(config, __doc__)))
