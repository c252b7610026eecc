// What each peer achieved, kept for the table in bench/interop/README.md. A run without WEIR_INTEROP_OUTCOMES (one test
// file by hand) keeps nothing.

import { appendFileSync } from 'node:fs';

/**
 * @param {{ peer: string, does: string, draft: string | number, transport: string, passed: number, of: number,
 *   known?: string[] }} row
 */
export function keep(row) {
  const file = process.env.WEIR_INTEROP_OUTCOMES;
  if (file) appendFileSync(file, `${JSON.stringify(row)}\n`);
}
