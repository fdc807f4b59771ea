import { configReading, type ProcessConfig } from '@tributary/config';
import { describe, expect, it } from 'vitest';
import { type CaseEvent, type CaseObject, Judge, type Judgement } from './judge.ts';
import { Shapes } from './shapes.ts';

const OBJECTS = `objects:
  order: { table: s.orders, key: id, state: status, milestones: [paid_at] }
  payment: { table: p.payments, key: id, state: state, of: { order: order_id } }
  parcel: { table: l.parcels, key: id, state: status, of: { order: order_id } }
root: order
`;
const { configOf } = await configReading();

function processOf(rules: string): ProcessConfig {
  const sources = ['s', 'p', 'l'].map((name) => `kind: Source\nname: ${name}\npostgres: postgres://a@b/c\n---\n`).join('');
  const text = `${sources}kind: Process\nname: flow\n${OBJECTS}${rules}\n`;
  const [process] = configOf([{ name: 'a.yaml', text }], { env: {} }).processes;
  if (!process) throw new Error('there is no process');
  return process;
}

const shapes = new Shapes();
const SOURCE_OF: Readonly<Record<string, string>> = { order: 's', payment: 'p', parcel: 'l' };

/** `order.new@1`: at one second; a second object of its type is `parcel#2.packed@1`. One that was met before it: `payment!.lost@1`. */
function caseOf(text: string): { events: CaseEvent[]; objects: CaseObject[] } {
  const states = new Map<string, { state: string | null; born: boolean; alive: boolean }>();
  const events = text.split(' ').map((part, i): CaseEvent => {
    const [, object = '', own, met, what = '', second] = /^(\w+?)(#\d)?(!)?\.(\w+)@([\d.]+)$/.exec(part) ?? [];
    const key = own ?? '1';
    const before = states.get(`${object} ${key}`) ?? { state: null, born: met === undefined, alive: false };
    const milestone = what === 'paid_at';
    const gone = what === 'deleted';
    const kind = milestone ? 'milestone' : gone ? 'deleted' : before.alive || !before.born ? 'state' : 'created';
    const after = milestone || gone ? null : what;
    states.set(`${object} ${key}`, { ...before, state: milestone ? before.state : after, alive: !gone });
    const atUs = Math.round(Number(second) * 1e6);
    const activity = `${object} ${kind === 'created' ? 'created' : what}`;
    const source = SOURCE_OF[object] as string;
    const shape = shapes.of({ source, activity, object, kind, before: before.state, after });
    return { atUs, tick: atUs + i, lsn: i, ordinal: 0, key, shape };
  });
  const objects = [...states].map(([name, life]) => ({
    object: name.split(' ')[0] as string,
    key: name.split(' ')[1] as string,
    ...life,
  }));
  return { events: events.toSorted((a, b) => a.tick - b.tick), objects };
}

/** @param marks seconds up to which all sources, or each, were read */
function judged(rules: string, history: string, marks: number | Readonly<Record<'s' | 'p' | 'l', number>> = 1e6): Judgement {
  const of = (source: 's' | 'p' | 'l') => [source, (typeof marks === 'number' ? marks : marks[source]) * 1e6] as const;
  return new Judge(processOf(rules)).judge({ case: '1', ...caseOf(history) }, new Map([of('s'), of('p'), of('l')]));
}

const brief = ({ violations, owed }: Judgement) => [
  ...violations.map(
    ({ level, atUs, event }) =>
      `${level === 'violation' ? 'broken' : level} ${event.shape.object}.${event.shape.after ?? event.shape.activity} @${atUs / 1e6}`,
  ),
  ...owed.map(({ dueUs }) => `owed @${dueUs === null ? 'ever' : dueUs / 1e6}`),
];

const rule = (text: string, rest = '') => `rules: [{ name: x, ${text} }]${rest}`;
const DONE = '\ndone: order.done';

describe('a rule', () => {
  it.each([
    // Existence, absence, init.
    ['existence: order.paid', 'order.new@1', ['owed @ever']],
    ['existence: order.paid', 'order.new@1 order.paid@2', []],
    ['existence: order.paid', 'order.new@1 order.done@2', ['broken order.new @2.25']],
    ['existence: payment.ok, within: 5s', 'order.new@1 payment.ok@7', ['broken order.new @6']],
    ['absence: order.lost', 'order.new@1 order.lost@2', ['broken order.lost @2']],
    ['init: order.created', 'order.new@1 payment.ok@2', []],
    ['init: order.created', 'payment.ok@0.9 order.new@1', []],
    ['init: order.created', 'payment.ok@0.5 order.new@1', ['broken payment.ok @0.5']],
    // Response.
    ['response: [payment.ok, parcel.sent]', 'order.new@1 payment.ok@2', ['owed @ever']],
    ['response: [payment.ok, parcel.sent]', 'order.new@1 payment.ok@2 parcel.sent@9', []],
    ['response: [payment.ok, parcel.sent]', 'order.new@1 parcel.sent@1 payment.ok@2', ['owed @ever']],
    ['response: [payment.ok, parcel.sent]', 'order.new@1 parcel.sent@1.9 payment.ok@2', []],
    ['response: [payment.ok, parcel.sent]', 'order.new@1 payment.ok@2 order.done@3', ['broken payment.ok @3.25']],
    ['response: [payment.ok, parcel.sent], within: 5s', 'order.new@1 payment.ok@2 parcel.sent@7.2', []],
    ['response: [payment.ok, parcel.sent], within: 5s', 'order.new@1 payment.ok@2 parcel.sent@7.3', ['broken payment.ok @7.25']],
    ['response: [order.new, order.paid], within: 5s', 'order.new@1 order.paid@6.1', ['broken order.new @6']],
    // Precedence and succession.
    ['precedence: [payment.ok, parcel.sent]', 'order.new@1 payment.ok@2 parcel.sent@3', []],
    ['precedence: [payment.ok, parcel.sent]', 'order.new@1 parcel.sent@2 payment.ok@2.2', []],
    ['precedence: [payment.ok, parcel.sent]', 'order.new@1 parcel.sent@2 payment.ok@2.3', ['broken parcel.sent @2']],
    ['precedence: [payment.ok, parcel.sent], within: 1s', 'order.new@1 payment.ok@2 parcel.sent@4', ['broken parcel.sent @4']],
    ['precedence: [order.paid_at, order.sent]', 'order.new@1 order.paid_at@2 order.sent@3', []],
    ['precedence: [order.paid_at, order.sent]', 'order.new@1 order.sent@2 order.paid_at@2.1', ['broken order.sent @2']],
    ['succession: [payment.ok, parcel.sent]', 'order.new@1 parcel.sent@2 payment.ok@3', ['broken parcel.sent @2', 'owed @ever']],
    // Negative ones.
    ['not_response: [parcel.in, payment.back]', 'order.new@1 parcel.in@2 payment.back@2.2', []],
    ['not_response: [parcel.in, payment.back]', 'order.new@1 parcel.in@2 payment.back@2.3', ['broken payment.back @2.3']],
    ['not_response: [parcel.in, payment.back], after: 30s', 'order.new@1 parcel.in@2 payment.back@31', []],
    [
      'not_response: [parcel.in, payment.back], after: 30s',
      'order.new@1 parcel.in@2 payment.back@33',
      ['broken payment.back @33'],
    ],
    ['not_response: [parcel.in, payment.back], within: 5s', 'order.new@1 parcel.in@2 payment.back@8', []],
    ['not_response: [parcel.in, payment.back], within: 5s', 'order.new@1 parcel.in@2 payment.back@6', ['broken payment.back @6']],
    ['not_coexistence: [order.lost, payment.ok]', 'order.new@1 order.lost@2', []],
    ['not_coexistence: [order.lost, payment.ok]', 'order.new@1 payment.ok@2 order.lost@3', ['broken order.lost @3']],
    // Chain response: nothing that surely lies between.
    ['chain_response: [order.paid, parcel.sent]', 'order.new@1 order.paid@2', ['owed @ever']],
    ['chain_response: [order.paid, parcel.sent]', 'order.new@1 order.paid@2 parcel.sent@3', []],
    ['chain_response: [order.paid, parcel.sent]', 'order.new@1 order.paid@2 payment.ok@2.1 parcel.sent@3', []],
    [
      'chain_response: [order.paid, parcel.sent]',
      'order.new@1 order.paid@2 payment.ok@4 parcel.sent@5',
      ['broken payment.ok @4'],
    ],
    // Conditions over children.
    ['condition: "all(parcel.status = \'in\')", at: order.paid', 'order.new@1 parcel.sent@1 parcel.in@2 order.paid@3', []],
    [
      'condition: "all(parcel.status = \'in\')", at: order.paid',
      'order.new@1 parcel.in@1 parcel#2.sent@2 order.paid@3',
      ['broken order.paid @3'],
    ],
    ['condition: "all(parcel.status = \'in\')", at: order.paid', 'order.new@1 parcel.sent@2 order.paid@3 parcel.in@3.2', []],
    ['condition: count(parcel) = 2', 'order.new@1 parcel.in@1 parcel#2.in@2 order.done@3', []],
    [
      'condition: count(parcel) = 2',
      'order.new@1 parcel.in@1 parcel#2.in@2 parcel.deleted@2 order.done@3',
      ['broken order.done @3'],
    ],
  ])('%s of %s', (text, history, expected) => {
    expect(brief(judged(rule(text, DONE), history))).toEqual(expected);
  });

  it.each([
    ['a deadline', 'response: [payment.ok, parcel.sent], within: 5s', 'order.new@1 payment.ok@2', 7.25],
    ['an order of two sources', 'precedence: [payment.ok, parcel.sent]', 'order.new@1 parcel.sent@2', 2.25],
    ['the end of the case', 'existence: parcel.sent', 'order.new@1 order.done@2', 2.25],
  ])('waits with %s until the sources have passed it that could still tell otherwise', (_, text, history, due) => {
    const ahead = { s: 1e6, p: 1e6, l: 1e6 };
    const awaited = text.startsWith('precedence') ? 'p' : 'l';
    expect(brief(judged(rule(text, DONE), history, { ...ahead, [awaited]: due }))).toEqual([`owed @${due}`]);
    expect(brief(judged(rule(text, DONE), history, { s: 3, p: 3, l: 3, [awaited]: due + 0.001 }))).toHaveLength(1);
    expect(brief(judged(rule(text, DONE), history, { s: 3, p: 3, l: 3, [awaited]: due + 0.001 }))[0]).toContain('broken');
  });

  it('says nothing of what it cannot know: cases and objects that were met in the middle of their lives', () => {
    const text = rule('precedence: [payment.ok, parcel.sent]', DONE);
    expect(brief(judged(text, 'order.new@1 parcel.sent@2'))).toHaveLength(1);
    expect(judged(text, 'order!.paid@1 parcel.sent@2')).toMatchObject({ startedUs: null, violations: [], owed: [] });
    expect(brief(judged(text, 'order.new@1 payment!.back@2 parcel.sent@2'))).toEqual([]);
  });
});

describe('a case', () => {
  it('is done when its condition holds for the first time, after whole transactions', () => {
    const done = `done: "all(parcel.status IN ('in', 'back')) AND count(parcel) > 0"`;
    expect(judged(done, 'order.new@1').doneUs).toBeNull();
    expect(judged(done, 'order.new@1 parcel.sent@2 parcel#2.in@3').doneUs).toBeNull();
    expect(judged(done, 'order.new@1 parcel.sent@2 parcel#2.in@3 parcel.back@4 parcel#3.sent@5').doneUs).toBe(4e6);
    const { events, objects } = caseOf('order.new@1 parcel.in@2 parcel#2.sent@2');
    const one = events.map((event) => ({ ...event, lsn: 7 }));
    const marks = new Map();
    expect(new Judge(processOf(done)).judge({ case: '1', events: one, objects }, marks).doneUs).toBeNull();
    expect(new Judge(processOf(done)).judge({ case: '1', events, objects }, marks).doneUs).toBe(2e6);
  });

  it('makes allowed transitions alone', () => {
    const allowed = 'allowed: { order: ">new; new>paid|lost; paid>done" }';
    expect(brief(judged(allowed, 'order.new@1 order.paid@2 order.done@3'))).toEqual([]);
    expect(brief(judged(allowed, 'order.new@1 order.done@2'))).toEqual(['broken order.done @2']);
    expect(brief(judged(allowed, 'order.paid@1 order.done@2'))).toEqual(['broken order.paid @1']);
    // What a change was from is told with it.
    expect(brief(judged(allowed, 'order!.paid@1 order.new@2'))).toEqual(['broken order.new @2']);
  });

  it('has its times, as a whole and in every stage', () => {
    const sla = 'sla: { cycle: { target: 10s, warn_at: 0.5 }, stage: { order.paid: 3s } }\ndone: order.done';
    expect(brief(judged(sla, 'order.new@1 order.paid@2 order.done@4.5'))).toEqual([]);
    expect(brief(judged(sla, 'order.new@1 order.paid@2 order.done@5.5'))).toEqual(['broken order.paid @5']);
    expect(brief(judged(sla, 'order.new@1', 5))).toEqual(['owed @6']);
    expect(brief(judged(sla, 'order.new@1', 7))).toEqual(['warning order.new @6', 'owed @11']);
    expect(brief(judged(sla, 'order.new@1', 12))).toEqual(['broken order.new @11']);
    expect(brief(judged(sla, 'order.new@1 order.done@12'))).toEqual(['broken order.new @11']);
    expect(brief(judged(sla, 'order.new@1 order.paid@2', { s: 4, p: 99, l: 99 }))).toEqual(['owed @6', 'owed @5']);
  });

  it('of many events is judged as one of few, in a time that grows as their number', () => {
    const long = (n: number) =>
      Array.from({ length: n }, (_, i) => `parcel#${i % 9}.${i % 2 ? 'in' : 'sent'}@${i + 2}`).join(' ');
    const text = `${rule('response: [parcel.sent, parcel.in], within: 5s')}\n`;
    expect(judged(text, `order.new@1 ${long(10)}`).violations).toEqual([]);
    const missed = judged(text, `order.new@1 ${long(5_000)} parcel.sent@9000 order.paid@9010`);
    expect(brief(missed)).toEqual(['broken parcel.sent @9005']);
  });
});
