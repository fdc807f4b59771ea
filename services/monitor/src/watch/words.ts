import type { Constraint, EventOf, ProcessConfig } from '@tributary/config';
import { durationText } from '../pictures/words.ts';

/** What went wrong where a rule is broken, or something is not as usual, for people who do not know the definition: “payment captured” was not followed by “parcel shipped” within 30 s. */
export function ruleWords(process: ProcessConfig, rule: string): string {
  const { rules, cycle } = process.conformance;
  const declared = rules.find(({ name }) => name === rule);
  if (declared) return constraintWords(declared.constraint);
  if (rule === 'sla.cycle' && cycle) {
    const from = cycle.from ? ` after ${event(cycle.from)}` : '';
    return `${cycle.to ? `no ${event(cycle.to)}` : 'not done'} within ${span(cycle.targetMs)}${from}`;
  }
  const [kind = '', ...rest] = rule.split('.');
  const what = rest.join('.');
  const [object = '', ...more] = rest;
  const state = more.join('.');
  if (kind === 'sla') {
    const limit = process.conformance.stages.find((one) => one.object === object && one.state === state)?.limitMs ?? 0;
    return `${object} stayed ${state} for longer than ${span(limit)}`;
  }
  if (kind === 'allowed') return `${object} changed its state in a way that is not allowed`;
  if (kind === 'stuck') return `${object} stays ${state} for longer than usual`;
  if (kind === 'missing') return `“${what}” did not happen, though it usually does`;
  if (kind === 'drift') return 'cases go other ways, or at another pace, than before';
  if (kind !== 'silent') return rule;
  if (state === 'deleted') return `${object} was deleted before its case was done`;
  const [before = '', after = ''] = state.split('>');
  return `${object} went back from ${before} to ${after}`;
}

function constraintWords(constraint: Constraint): string {
  const within = 'withinMs' in constraint && constraint.withinMs !== null ? ` within ${span(constraint.withinMs)}` : '';
  switch (constraint.kind) {
    case 'existence':
      return `${event(constraint.event)} did not happen${within}`;
    case 'absence':
      return `${event(constraint.event)} happened`;
    case 'init':
      return `something else than ${event(constraint.event)} happened first`;
    case 'condition':
      return `its condition did not hold ${constraint.at ? `at ${event(constraint.at)}` : 'when the case was done'}`;
    default: {
      const [a, b] = constraint.events.map(event);
      switch (constraint.kind) {
        case 'response':
          return `${a} was not followed by ${b}${within}`;
        case 'precedence':
          return `${b} happened without ${a} before it${within}`;
        case 'succession':
          return `${a} and ${b} did not follow one another${within}`;
        case 'chain_response':
          return `${a} was not directly followed by ${b}${within}`;
        case 'not_coexistence':
          return `${a} and ${b} both happened`;
        case 'not_response': {
          const after = constraint.afterMs > 0 ? ` more than ${span(constraint.afterMs)}` : '';
          return `${b} happened${after}${within} after ${a}`;
        }
      }
    }
  }
}

function event({ object, what }: EventOf): string {
  return `“${object === null ? what : `${object} ${what}`}”`;
}

/** A span that somebody chose is a round one. */
function span(ms: number): string {
  return durationText(ms).replace('.0 ', ' ');
}
