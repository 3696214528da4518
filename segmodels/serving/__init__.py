"""The server behind `segmodels serve`: images in, class maps out, the model swapped while it runs.

images.py    what comes in: sizes and formats that are let through
answers.py   what goes out: class map, overlay, COCO, GeoJSON; which of them a request means
polygons.py  outlines of a class map
engine.py    the thread that predicts, and the model that it predicts with
follow.py    the thread that follows the target and swaps the model
watch.py     the thread that looks for drift
metrics.py   what Prometheus is told
service.py   who is let in, whose turn it is
schema.py    what OpenAPI says
app.py       the paths
server.py    the process: signals, start and end
"""
