import { askOne, type Bus, Fault } from '@tributary/core';
import { type DeclaredReference, discover, type Proposal, proposalYaml } from '@tributary/monitor';
import type { Connected } from './addresses.ts';
import { layoutOf } from './cluster.ts';

/** A source reads its catalog for the answer. */
const REFERENCES_IDLE_MS = 10_000;

/** A process that shows in the changelogs, with its definition. */
export interface ProposedProcess extends Proposal {
  readonly yaml: string;
}

/** Reads once through what all changelogs hold. @returns the best first */
export async function proposedProcesses(
  connected: Pick<Connected, 'broker'>,
  signal: AbortSignal,
): Promise<readonly ProposedProcess[]> {
  const { sources } = await layoutOf(connected);
  const { bus, changelogs } = connected.broker;
  const references = (source: string) => referencesOf(bus, source);
  const proposals = await discover(changelogs, { sources, references, signal });
  return proposals.map((proposal) => ({ ...proposal, yaml: proposalYaml(proposal) }));
}

/** A source that is away shows its links by values alone; a transform has no foreign keys. */
async function referencesOf(bus: Bus, source: string): Promise<readonly DeclaredReference[]> {
  try {
    const subject = `tributary.source.${source}.references`;
    return (await askOne<{ references: readonly DeclaredReference[] }>(bus, subject, {}, { idleMs: REFERENCES_IDLE_MS }))
      .references;
  } catch (error) {
    if (error instanceof Fault) return [];
    throw error;
  }
}
