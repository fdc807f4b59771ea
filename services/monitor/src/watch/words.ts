import type { Constraint, EventOf, ProcessConfig } from '@tributary/config';
import { durationText } from '../pictures/words.ts';

/**
 * What went wrong where a rule is broken, or something is not as usual, for people who do not know the definition: “payment captured” was not
 * followed by “parcel shipped” within 30 s. `kept`: what is always so, where no case breaks it.
 */
export function ruleWords(process: ProcessConfig, rule: string, said: 'broken' | 'kept' = 'broken'): string {
  return wordsOf(process, rule)[said];
}

interface Words {
  readonly broken: string;
  readonly kept: string;
}

function wordsOf(process: ProcessConfig, rule: string): Words {
  const { rules, cycle } = process.conformance;
  const declared = rules.find(({ name }) => name === rule);
  if (declared) return constraintWords(declared.constraint);
  if (rule === 'sla.cycle' && cycle) {
    const from = cycle.from ? ` after ${event(cycle.from)}` : '';
    const within = `within ${span(cycle.targetMs)}${from}`;
    return cycle.to
      ? { broken: `no ${event(cycle.to)} ${within}`, kept: `${event(cycle.to)} always happens ${within}` }
      : { broken: `not done ${within}`, kept: `always done ${within}` };
  }
  const [kind = '', ...rest] = rule.split('.');
  const what = rest.join('.');
  const [object = '', ...more] = rest;
  const state = more.join('.');
  if (kind === 'sla') {
    const limit = process.conformance.stages.find((one) => one.object === object && one.state === state)?.limitMs ?? 0;
    const longer = `${state} for longer than ${span(limit)}`;
    return { broken: `${object} stayed ${longer}`, kept: `no ${object} stays ${longer}` };
  }
  if (kind === 'allowed')
    return {
      broken: `${object} changed its state in a way that is not allowed`,
      kept: `${object} changes its state only in ways that are allowed`,
    };
  const found = learnedWords({ kind, what, object, state }) ?? rule;
  return { broken: found, kept: found };
}

/** What is learned is not told where there is none of it. */
function learnedWords({
  kind,
  what,
  object,
  state,
}: Readonly<Record<'kind' | 'what' | 'object' | 'state', string>>): string | null {
  if (kind === 'stuck') return `${object} stays ${state} for longer than usual`;
  if (kind === 'missing') return `“${what}” did not happen, though it usually does`;
  if (kind === 'drift') return 'cases go other ways, or at another pace, than before';
  if (kind !== 'silent') return null;
  if (state === 'deleted') return `${object} was deleted before its case was done`;
  const [before = '', after = ''] = state.split('>');
  return `${object} went back from ${before} to ${after}`;
}

function constraintWords(constraint: Constraint): Words {
  const within = 'withinMs' in constraint && constraint.withinMs !== null ? ` within ${span(constraint.withinMs)}` : '';
  switch (constraint.kind) {
    case 'existence': {
      const a = event(constraint.event);
      return { broken: `${a} did not happen${within}`, kept: `${a} always happens${within}` };
    }
    case 'absence': {
      const a = event(constraint.event);
      return { broken: `${a} happened`, kept: `${a} never happens` };
    }
    case 'init': {
      const a = event(constraint.event);
      return { broken: `something else than ${a} happened first`, kept: `${a} always happens first` };
    }
    case 'condition': {
      const [at, always] = constraint.at
        ? [`at ${event(constraint.at)}`, `at ${event(constraint.at)}`]
        : ['when the case was done', 'when a case is done'];
      return { broken: `its condition did not hold ${at}`, kept: `its condition always holds ${always}` };
    }
    default: {
      const [a, b] = constraint.events.map(event);
      switch (constraint.kind) {
        case 'response':
          return { broken: `${a} was not followed by ${b}${within}`, kept: `${a} is always followed by ${b}${within}` };
        case 'precedence':
          return {
            broken: `${b} happened without ${a} before it${within}`,
            kept: `${b} never happens without ${a} before it${within}`,
          };
        case 'succession':
          return {
            broken: `${a} and ${b} did not follow one another${within}`,
            kept: `${a} and ${b} always follow one another${within}`,
          };
        case 'chain_response':
          return {
            broken: `${a} was not directly followed by ${b}${within}`,
            kept: `${a} is always directly followed by ${b}${within}`,
          };
        case 'not_coexistence':
          return { broken: `${a} and ${b} both happened`, kept: `${a} and ${b} never both happen` };
        case 'not_response': {
          const after = constraint.afterMs > 0 ? ` more than ${span(constraint.afterMs)}` : '';
          return { broken: `${b} happened${after}${within} after ${a}`, kept: `${b} never happens${after}${within} after ${a}` };
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
