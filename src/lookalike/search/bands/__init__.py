"""Bands of distance: what a distance means in one index, measured on its own images.

`calibration` decides the limits, `kept` keeps them with the index, `limits` has their meaning, and
`search` cuts weak results off and collapses the copies of one photo.
"""
