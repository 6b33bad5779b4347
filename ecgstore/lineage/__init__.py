"""New stores, and folders of other formats, out of sealed stores."""
