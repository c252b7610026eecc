// The package's entry for publishing, loaded only by who does.

export { BroadcastPublisher } from './publish/publisher.js';
export type { PublisherEvents, PublisherOptions } from './publish/publisher.js';
export type { State as PublisherState, Stats as PublisherStats, Trouble } from './publish/protocol.js';
