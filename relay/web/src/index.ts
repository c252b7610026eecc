// The package's main entry: watching a broadcast without any user interface.

export { BroadcastViewer, LATENCY_DEFAULT_MS } from './viewer/viewer.js';
export type { State, ViewerOptions, ViewerStats } from './viewer/viewer.js';
export type { ViewerEvents } from './viewer/events.js';
export type { CatalogSummary, TrackStats } from './viewer/protocol.js';
export type { Percentiles } from './viewer/glass.js';
