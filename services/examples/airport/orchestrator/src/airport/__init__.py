from pkgutil import extend_path

# The generated modules of this package live in another source root.
__path__ = extend_path(__path__, __name__)
