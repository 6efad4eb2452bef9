"""The site, its notebooks and pictures: what is made from the code, and how."""
