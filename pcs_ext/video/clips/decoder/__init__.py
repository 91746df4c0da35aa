"""The process that opens videos: it needs no torch, can be killed, and may die of a bad file without harm.

It is started by `pcs_ext.video.clips.process` with this folder alone on the path, so modules here import each other
relatively (everywhere else the project imports by full name) and nothing else of the project.
"""
