"""What the FFmpeg inside PyAV can do here."""


def codecs() -> dict[str, str]:
    """Versions, and whether the encoders and decoders we rely on are there."""
    import av

    needed = ("libx264", "libvpx-vp9", "ffv1", "h264", "hevc", "libdav1d", "vp8", "vp9", "mpeg4", "mjpeg", "prores")
    missing = [name for name in needed if name not in av.codecs_available]
    return {"pyav": av.__version__, "codecs": "all there" if not missing else f"missing: {', '.join(missing)}"}
