"""Where images are: files, URIs and tables, found, listed, labelled and read."""
