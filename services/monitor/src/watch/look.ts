import type { FindingKind, ProcessConfig } from '@tributary/config';
import { isoMicros } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { processDrift } from '../analysis/drift.ts';
import { caseOrderOf } from '../analysis/concurrent.ts';
import { KeptSteps } from '../analysis/kept-steps.ts';
import { brokenRules, type Finding, type Found } from './finding.ts';
import { missingEvents } from './missing.ts';
import { sightOf } from './sight.ts';
import { silentChanges } from './silent.ts';
import { stuckObjects } from './stuck.ts';

/** Kinds that are learned from all events, so a look for them costs more than reading what is kept. */
export const LEARNED_KINDS = ['stuck', 'missing', 'silent', 'drift'] as const satisfies readonly FindingKind[];

/** What is found of these kinds at this moment, and what would be by the clock. @param nowUs by the clock */
export async function findingsOf(
  duck: Duck,
  process: ProcessConfig,
  { kinds, nowUs }: { kinds: readonly FindingKind[]; nowUs: number },
): Promise<Found> {
  const found: Found[] = [];
  if (kinds.includes('rule') || kinds.includes('sla')) {
    const broken = await brokenRules(duck, process);
    found.push({ findings: broken.filter(({ kind }) => kinds.includes(kind)), unknown: [] });
  }
  if (kinds.includes('stuck') || kinds.includes('missing')) {
    const sight = await sightOf(duck, process, nowUs);
    if (kinds.includes('stuck')) found.push(await stuckObjects(duck, process, sight));
    if (kinds.includes('missing')) found.push(await missingEvents(duck, process, sight));
  }
  if (kinds.includes('silent')) found.push({ findings: await silentChanges(duck, process), unknown: [] });
  if (kinds.includes('drift')) found.push({ findings: await drifted(duck, process), unknown: [] });
  return { findings: found.flatMap(({ findings }) => findings), unknown: found.flatMap(({ unknown }) => unknown) };
}

/** A process that goes another way, or at another pace, than before; once there is at least as much before the newest span as in it. */
async function drifted(duck: Duck, process: ProcessConfig): Promise<Finding[]> {
  const { drift } = process.watch;
  if (!drift) return [];
  const { since, split, alpha, edges, changed, durations } = await processDrift(
    new KeptSteps(duck, caseOrderOf(process)),
    {},
    drift,
  );
  const [first] = await duck.rows<{ us: number | null }>('SELECT min(at_us) AS us FROM event WHERE "case" IS NOT NULL');
  if (split === null || since === null || !first || first.us === null) return [];
  const splitUs = Date.parse(split) * 1_000;
  if (first.us > splitUs - drift.windowMs * 1_000) return [];
  const finding = (what: string, reason: string): Finding => ({
    kind: 'drift',
    rule: 'drift',
    severity: 'warning',
    case: null,
    id: `drift ${what}`,
    atUs: splitUs,
    reason,
    event: null,
  });
  const span = `from ${isoMicros(splitUs)} on, compared with the time before (alpha ${alpha})`;
  const [most] = changed;
  const ways =
    edges.drifted && most
      ? [
          finding(
            'ways',
            `cases go other ways ${span}: ${most.from} > ${most.to} was ${percent(most.before)} of steps and is ${percent(most.now)}`,
          ),
        ]
      : [];
  const paces = durations
    .filter((one) => one.drifted)
    .map((one) => finding(`${one.from}>${one.to}`, `${one.from} > ${one.to} takes another time ${span}`));
  return [...ways, ...paces];
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
