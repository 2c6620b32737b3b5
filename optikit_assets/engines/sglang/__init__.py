"""SGLang: all that knows it. What of it was never run is listed in docs/engines.md."""
