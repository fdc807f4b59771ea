import { Fault } from '@tributary/core';
import sax from 'sax';

/** Which state may follow which; null: the beginning. */
export type Transition = readonly [string | null, string];

type NodeKind = 'task' | 'exclusive' | 'parallel' | 'pass' | 'end' | 'terminate';

interface Node {
  readonly id: string;
  readonly name: string;
  kind: NodeKind;
  readonly start: boolean;
  /** The task that it interrupts. */
  readonly attachedTo: string | null;
  readonly in: string[];
  readonly out: string[];
}

interface Diagram {
  readonly nodes: ReadonlyMap<string, Node>;
  /** Id of a flow → id of the node that it leads to. */
  readonly target: ReadonlyMap<string, string>;
}

const TASK = /^(task|\w+Task|callActivity)$/;
const GATEWAYS: Readonly<Record<string, NodeKind>> = {
  exclusiveGateway: 'exclusive',
  eventBasedGateway: 'exclusive',
  parallelGateway: 'parallel',
};
const EVENT = /^(start|end|boundary|intermediateCatch|intermediateThrow)Event$/;
/** Ways of a diagram that are followed; what makes more is not a process that somebody drew. */
const SITUATIONS_MAX = 50_000;
/** Tokens at once. */
const TOKENS_MAX = 100;

/**
 * The changes of state that a BPMN 2.0 file allows: its tasks are states of objects of one type, `order paid` or `paid`. Where tasks are named after
 * several types, those of the others happen in between and are passed over.
 *
 * Tokens are played: a task is a state from when its token comes until it leaves, by a flow or by an event on its border; of an exclusive gateway
 * one flow goes on, of a parallel one all do, and one that joins waits for all. So branches that run side by side come in any order.
 * @throws Fault `config_invalid` for a file that is none, and for what has no such meaning (inclusive and complex gateways, subprocesses)
 */
export function allowedByBpmn(path: string, text: string, object: string): Transition[] {
  const diagram = diagramOf(path, text);
  const tasks = [...diagram.nodes.values()].filter(({ kind }) => kind === 'task');
  const prefix = `${object} `.toLowerCase();
  const named = tasks.some(({ name }) => name.toLowerCase().startsWith(prefix));
  const stateOf = ({ name }: Node): string | null =>
    !named ? name : name.toLowerCase().startsWith(prefix) ? name.slice(prefix.length).trim() : null;
  for (const task of tasks) {
    const state = stateOf(task);
    if (state !== null && (state === '' || /[;>|]/.test(state)))
      throw new Fault('config_invalid', `${path}: the task ${task.id} needs a name that is a state, without ; > and |`);
  }
  const transitions = played(path, diagram, stateOf);
  if (transitions.length === 0) throw new Fault('config_invalid', `${path}: no task can be reached from a start event`);
  return transitions;
}

/** As `allowed` of a definition has them. */
export function allowedText(transitions: readonly Transition[]): string {
  const following = new Map<string, string[]>();
  for (const [from, to] of transitions) following.set(from ?? '', [...(following.get(from ?? '') ?? []), to]);
  return [...following].map(([from, to]) => `${from}>${to.join('|')}`).join('; ');
}

interface Situation {
  /** Flows and tasks that hold a token, sorted. */
  readonly tokens: readonly string[];
  readonly last: string | null;
}

/** Every situation that can come about, once. */
function played(path: string, diagram: Diagram, stateOf: (task: Node) => string | null): Transition[] {
  const starts = [...diagram.nodes.values()].filter(({ start }) => start);
  const open: Situation[] = starts.map(({ out }) => ({ tokens: out.toSorted(), last: null }));
  const seen = new Set(open.map((one) => JSON.stringify(one)));
  const found = new Map<string, Transition>();
  for (let now = open.pop(); now; now = open.pop()) {
    for (const { tokens, task } of moves(diagram, now.tokens)) {
      const state = task && stateOf(task);
      // A state that is reached once more is no change.
      if (state && state !== now.last) found.set(JSON.stringify([now.last, state]), [now.last, state]);
      const next = { tokens, last: state ?? now.last };
      const known = JSON.stringify(next);
      if (seen.has(known)) continue;
      if (seen.size >= SITUATIONS_MAX || tokens.length > TOKENS_MAX)
        throw new Fault(
          'config_invalid',
          `${path}: the diagram can be gone through in too many ways: does a parallel branch loop?`,
        );
      seen.add(known);
      open.push(next);
    }
  }
  return [...found.values()].toSorted(([a, b], [c, d]) => ((a ?? '') + '\0' + b < (c ?? '') + '\0' + d ? -1 : 1));
}

interface Move {
  readonly tokens: readonly string[];
  /** That is entered. */
  readonly task?: Node;
}

function moves({ nodes, target }: Diagram, tokens: readonly string[]): Move[] {
  const replaced = (gone: readonly string[], come: readonly string[]) => {
    const left = [...tokens];
    for (const one of gone) left.splice(left.indexOf(one), 1);
    return [...left, ...come].toSorted();
  };
  return [...new Set(tokens)].flatMap((token): Move[] => {
    const inside = nodes.get(token);
    if (inside) {
      const interrupted = [...nodes.values()].filter(({ attachedTo }) => attachedTo === token);
      return [inside.out, ...interrupted.map(({ out }) => out)].map((out) => ({ tokens: replaced([token], out) }));
    }
    const node = nodes.get(target.get(token) as string) as Node;
    if (node.kind === 'task') return [{ tokens: replaced([token], [node.id]), task: node }];
    if (node.kind === 'exclusive') return node.out.map((flow) => ({ tokens: replaced([token], [flow]) }));
    if (node.kind === 'terminate') return [{ tokens: [] }];
    if (node.kind !== 'parallel') return [{ tokens: replaced([token], node.out) }];
    return node.in.every((flow) => tokens.includes(flow)) ? [{ tokens: replaced(node.in, node.out) }] : [];
  });
}

function diagramOf(path: string, text: string): Diagram {
  const nodes = new Map<string, Node>();
  const flows: { id: string; from: string; to: string }[] = [];
  const parser = sax.parser(true);
  const wrong = (message: string) => new Fault('config_invalid', `${path}:${parser.line + 1}: ${message}`);
  const open: string[] = [];
  parser.onerror = (error) => {
    throw wrong((error.message.split('\n')[0] as string).toLowerCase());
  };
  parser.onopentag = ({ name, attributes }) => {
    const kind = name.slice(name.indexOf(':') + 1);
    const {
      id = '',
      name: called = '',
      sourceRef = '',
      targetRef = '',
      attachedToRef = null,
    } = attributes as Record<string, string>;
    open.push(id);
    if (kind === 'sequenceFlow') flows.push({ id, from: sourceRef, to: targetRef });
    else if (kind === 'terminateEventDefinition') {
      const around = nodes.get(open.at(-2) ?? '');
      if (around) around.kind = 'terminate';
    } else if (/^(inclusiveGateway|complexGateway|subProcess|transaction|adHocSubProcess)$/.test(kind))
      throw wrong(`a ${kind} does not say which state follows which: use exclusive and parallel gateways, and tasks`);
    else if (TASK.test(kind) || EVENT.test(kind) || GATEWAYS[kind]) {
      const what = TASK.test(kind) ? 'task' : (GATEWAYS[kind] ?? (kind === 'endEvent' ? 'end' : 'pass'));
      const [start, attachedTo] = [kind === 'startEvent', attachedToRef];
      nodes.set(id, { id, name: called.replaceAll(/\s+/g, ' ').trim(), kind: what, start, attachedTo, in: [], out: [] });
    }
  };
  parser.onclosetag = () => void open.pop();
  parser.write(text).close();
  if (nodes.size === 0) throw wrong('this is no BPMN file: it has no tasks and no events');
  for (const { id, from, to } of flows) {
    const [source, aim] = [nodes.get(from), nodes.get(to)];
    if (!source || !aim) throw wrong(`the sequence flow ${id} leads from or to something that is not there`);
    source.out.push(id);
    aim.in.push(id);
  }
  return { nodes, target: new Map(flows.map(({ id, to }) => [id, to])) };
}
