// Cases of other people's test clients that are not passed, each with the reason and the evidence. A case listed here
// that passes fails the run: the list must not outlive its reasons.

/**
 * `skipped`: the client itself leaves the case out on this draft.
 * @type {{ peer: string, drafts: number[], case: string, skipped?: boolean, reason: string, evidence: string }[]}
 */
export const NOT_PASSED = [
  {
    peer: 'aiomoqt 0.13.3',
    drafts: [16, 14],
    case: 'rendezvous-timeout',
    skipped: true,
    reason: 'the drafts have no RENDEZVOUS_TIMEOUT',
    evidence: 'the client says: RENDEZVOUS_TIMEOUT is draft-18',
  },
  {
    peer: 'aiomoqt 0.13.3',
    drafts: [14],
    case: 'subscribe-namespace-lifecycle',
    skipped: true,
    reason: 'the draft has no NAMESPACE message',
    evidence: 'the client says: NAMESPACE is draft-16',
  },
];

export const notPassed = (peer, draft, name) =>
  NOT_PASSED.find((one) => one.peer === peer && one.case === name && one.drafts.includes(draft));
