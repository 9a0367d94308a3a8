"""From the bytes of an image to its pixels, or to the reason why there are none."""
