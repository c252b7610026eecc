// Makes the table of bench/interop/README.md out of the outcomes of one run: `node table.mjs OUTCOMES`. At a desk it
// rewrites the file; in CI (CI=true) a table that differs from the committed one is a failure.

import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const README = path.join(import.meta.dirname, 'README.md');
const BEGIN = '<!-- table: written by table.mjs -->';
const END = '<!-- end of table -->';

/** @param {ReturnType<typeof JSON.parse>[]} rows */
export function render(rows) {
  const lines = ['| peer | does | draft | transport | passed |', '| --- | --- | --- | --- | --- |'];
  const key = (row) => [row.peer, row.does, row.transport, String(999 - Number(row.draft || 0)).padStart(4, '0')].join('\0');
  for (const row of [...rows].sort((a, b) => (key(a) < key(b) ? -1 : 1))) {
    const known = row.known?.length ? `; not: ${row.known.join('; ')}` : '';
    lines.push(`| ${row.peer} | ${row.does} | ${row.draft} | ${row.transport} | ${row.passed} of ${row.of}${known} |`);
  }
  return lines.join('\n');
}

export function replaced(text, table) {
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error('the file has no place for the table');
  return `${text.slice(0, begin + BEGIN.length)}\n${table}\n${text.slice(end)}`;
}

if (process.argv[1] === import.meta.filename) {
  const rows = readFileSync(process.argv[2], 'utf8').trim().split('\n').filter(Boolean).map((line) => JSON.parse(line));
  const committed = readFileSync(README, 'utf8');
  const made = replaced(committed, render(rows));
  if (made === committed) {
    console.log('the table of bench/interop/README.md is what this run found');
  } else if (process.env.CI) {
    console.error(`error: the table of bench/interop/README.md is not what this run found:\n${render(rows)}`);
    console.error('help: run `make interop` at a desk, read the change, commit it');
    process.exitCode = 1;
  } else {
    writeFileSync(README, made);
    console.log('the table of bench/interop/README.md is rewritten');
  }
}
