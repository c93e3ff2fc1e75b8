// The comparison player.
