"""The server behind `segmodels serve`: images in, class maps out, the model swapped while it runs.

images.py    what comes in: sizes and formats that are let through
answers.py   what goes out: class map, overlay, COCO, GeoJSON
polygons.py  outlines of a class map
engine.py    the thread that predicts, and the model that it predicts with
follow.py    the thread that follows the target and swaps the model
app.py       the HTTP interface
server.py    the process: signals, start and end
"""
