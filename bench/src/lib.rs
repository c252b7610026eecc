//! Measurement and proof: load, simulation, fuzz targets.
