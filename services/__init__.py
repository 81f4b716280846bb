"""The five services of the platform, each a package of its own. They never import each other."""
