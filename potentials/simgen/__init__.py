"""SiMGen's similarity score: kernel, reference atoms, guidance to shapes, and valences; moves no atom itself."""
