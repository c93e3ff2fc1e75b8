// The frame strip where frames are marked.
