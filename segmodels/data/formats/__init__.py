"""The layouts that a dataset may come in, one module each, all written out as the dataset folder.

layout.py       what a layout is: `Layout`, `Raw`, `Reading`, fixed tables of classes
decode.py       how truth is coded in files: ids, colours, shapes, run lengths
finding.py      which layout a folder has
mapping.py      from its classes to those that are trained on
converting.py   reading, dealing, mapping, writing: once for all of them

Every other module describes one layout; it is found by its name.
"""

from segmodels.data.formats.common import Splitting
from segmodels.data.formats.converting import convert
from segmodels.data.formats.finding import choose, detect, find, layouts, names
from segmodels.data.formats.layout import Choices

__all__ = ["Choices", "Splitting", "choose", "convert", "detect", "find", "layouts", "names"]
