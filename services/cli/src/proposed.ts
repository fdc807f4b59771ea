import { discover, type Proposal, proposalYaml } from '@tributary/monitor';
import type { Connected } from './addresses.ts';
import { layoutOf } from './cluster.ts';

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
  const proposals = await discover(connected.broker.changelogs, { sources, signal });
  return proposals.map((proposal) => ({ ...proposal, yaml: proposalYaml(proposal) }));
}
