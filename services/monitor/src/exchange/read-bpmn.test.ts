import { configReading } from '@tributary/config';
import { describe, expect, it } from 'vitest';
import { allowedByBpmn, allowedText } from './read-bpmn.ts';

/** A diagram of `ID KIND NAME` and `FROM TO`. */
function bpmn(nodes: readonly string[], flows: readonly string[]): string {
  const written = nodes.map((node) => {
    const [id = '', kind = '', ...name] = node.split(' ');
    const [tag, attached] = kind.split('@');
    const inside = kind === 'terminate' ? '<bpmn:terminateEventDefinition/>' : '';
    const at = attached ? ` attachedToRef="${attached}"` : '';
    return `<bpmn:${kind === 'terminate' ? 'endEvent' : tag} id="${id}" name="${name.join(' ')}"${at}>${inside}</bpmn:${kind === 'terminate' ? 'endEvent' : tag}>`;
  });
  const led = flows.map(
    (flow, i) => `<bpmn:sequenceFlow id="f${i}" sourceRef="${flow.split(' ')[0]}" targetRef="${flow.split(' ')[1]}"/>`,
  );
  return `<?xml version="1.0"?><bpmn:definitions xmlns:bpmn="http://www.omg.org/spec/BPMN/20100524/MODEL"><bpmn:process id="p">
${[...written, ...led].join('\n')}</bpmn:process></bpmn:definitions>`;
}

const allowed = (text: string, object = 'order') => allowedText(allowedByBpmn('p.bpmn', text, object));

const SALES = bpmn(
  [
    's startEvent',
    'a task order placed',
    'x exclusiveGateway',
    'b userTask order paid',
    'c task order cancelled',
    'd serviceTask order shipped',
    'e endEvent',
  ],
  ['s a', 'a x', 'x b', 'x c', 'b d', 'c e', 'd e'],
);

describe('a BPMN file', () => {
  it('allows what its gateways allow, as a definition writes it', async () => {
    const text = allowed(SALES);
    expect(text).toBe('>placed; paid>shipped; placed>cancelled|paid');
    const { configOf } = await configReading();
    const document = `kind: Source
name: shop
postgres: postgres://a@b/c
---
kind: Process
name: flow
root: order
objects: { order: { table: shop.orders, state: status } }
allowed: { order: ${JSON.stringify(text)} }
`;
    const [process] = configOf([{ name: 'a.yaml', text: document }], { env: {} }).processes;
    expect(process?.conformance.allowed[0]?.transitions).toEqual(allowedByBpmn('p.bpmn', SALES, 'order'));
  });

  it('branches side by side come in any order, and what joins them waits for both', () => {
    const text = bpmn(
      ['s startEvent', 'p parallelGateway', 'a task a', 'b task b', 'q parallelGateway', 'c task c', 'e endEvent'],
      ['s p', 'p a', 'p b', 'a q', 'b q', 'q c', 'c e'],
    );
    expect(allowed(text)).toBe('>a|b; a>b|c; b>a|c');
  });

  it('loops, events on a border, ends that end everything, and tasks of other types in between', () => {
    const looped = bpmn(
      [
        's startEvent',
        'm exclusiveGateway',
        'a task order tried',
        'o task parcel weighed',
        'b task order failed',
        'x boundaryEvent@a',
        'c task order lost',
        'e terminate',
      ],
      ['s m', 'm a', 'a o', 'o b', 'b m', 'x c', 'c e'],
    );
    expect(allowed(looped)).toBe('>tried; failed>tried; tried>failed|lost');
    expect(allowed(looped, 'parcel')).toBe('>weighed');
    const ended = bpmn(
      ['s startEvent', 'p parallelGateway', 'a task a', 'b task b', 'e terminate', 'f endEvent'],
      ['s p', 'p a', 'p b', 'a e', 'b f'],
    );
    expect(allowed(ended)).toBe('>a|b; a>b; b>a');
  });

  it('says what is wrong with it', () => {
    const refused = (text: string) => {
      try {
        return allowed(text);
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(refused('<a/>')).toMatch(/p\.bpmn:1: this is no BPMN file/);
    expect(refused('<a>')).toMatch(/^p\.bpmn:1: unclosed root tag/);
    expect(refused(bpmn(['s startEvent', 'x inclusiveGateway'], ['s x']))).toMatch(/a inclusiveGateway does not say/);
    expect(refused(bpmn(['s startEvent', 'a task a>b'], ['s a']))).toMatch(/task a needs a name that is a state/);
    expect(refused(bpmn(['s startEvent', 'a task a'], []))).toMatch(/no task can be reached/);
    expect(refused(bpmn(['s startEvent', 'a task a'], ['s b']))).toMatch(/leads from or to something that is not there/);
    const endless = bpmn(['s startEvent', 'm exclusiveGateway', 'a task a'], ['s m', 'm a', 'a m', 'a m']);
    expect(refused(endless)).toMatch(/in too many ways/);
  });
});
