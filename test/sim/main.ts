import { parseArgs } from 'node:util';
import { simulate } from './simulate.ts';

/** `npm run sim -- --seed N --runs K [--trace]`: runs K worlds from seed N on; a broken rule is printed with its seed. */
const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    runs: { type: 'string', default: '1' },
    trace: { type: 'boolean', default: false },
  },
});
// Faults are made by the thousand; where each came from is of interest only to whoever looks at one world.
if (!values.trace) Error.stackTraceLimit = 3;
const first = Number(values.seed);
const runs = Number(values.runs);
if (!Number.isSafeInteger(first) || !Number.isSafeInteger(runs) || runs < 1) {
  console.error('usage: npm run sim -- --seed N --runs K [--trace], whole numbers');
  process.exit(2);
}
const failed: number[] = [];
const began = performance.now();
let events = 0;
let changes = 0;
for (let seed = first; seed < first + runs; seed++) {
  const outcome = await simulate(seed, { linesMax: values.trace ? 1_000_000 : 0 });
  events += outcome.events;
  changes += outcome.changes;
  if (values.trace) for (const line of outcome.lines) console.log(line);
  if (outcome.violation) {
    failed.push(seed);
    console.log(`seed ${seed} ${outcome.hash}: ${outcome.violation.message}`);
  } else if (runs === 1) console.log(`seed ${seed} ${outcome.hash}: all rules held`);
}
const ms = performance.now() - began;
console.log(`${runs} seeds, ${failed.length} failed, ${events} events, ${changes} changes, ${(ms / runs).toFixed(1)} ms a seed`);
if (failed.length > 0) console.log(`again: npm run sim -- --seed ${failed[0]} --trace`);
process.exit(failed.length === 0 ? 0 : 1);
