// Reads what a test client prints in the Test Anything Protocol, case by case. A line that is neither is left alone; a
// report whose number of cases is not the planned one is refused.

import assert from 'node:assert/strict';

/**
 * @param {string} text
 * @returns {{ name: string, passed: boolean, skipped: boolean, message: string }[]}
 */
export function readTap(text) {
  const cases = [];
  let planned = null;
  for (const line of text.split('\n')) {
    const plan = /^1\.\.(\d+)/.exec(line);
    if (plan) planned = Number(plan[1]);
    const result = /^(not )?ok (\d+) - (.*?)(?:\s+#\s*(\S+)\s*(.*))?$/.exec(line);
    if (result) {
      const [, not, number, name, directive, remark] = result;
      assert.equal(Number(number), cases.length + 1, `cases are numbered in order: ${line}`);
      // A tolerated deviation is no pass here.
      const skipped = directive?.toUpperCase() === 'SKIP';
      const passed = !not && directive === undefined;
      cases.push({ name, passed, skipped, message: remark ?? '' });
    }
    const message = /^\s+(?:message|error):\s*"?(.*?)"?$/.exec(line);
    if (message && cases.length > 0) cases.at(-1).message ||= message[1];
  }
  assert.ok(planned !== null, `a report has a plan:\n${text.slice(-2000)}`);
  assert.equal(cases.length, planned, `the plan was ${planned} cases:\n${text.slice(-2000)}`);
  return cases;
}
