import type { ProcessMap } from '../analysis/map.ts';
import { drawn, type DrawnNode } from './drawn.ts';
import { durationText } from './words.ts';

/** The map as a graph for Graphviz. */
export function mapDot(name: string, map: ProcessMap): string {
  const { nodes, edges } = drawn(map);
  const most = Math.max(1, ...edges.map(({ count }) => count));
  const lines = [
    `digraph ${quoted(name)} {`,
    '  graph [rankdir=TB, fontname="sans-serif"];',
    '  node [shape=box, style=rounded, fontname="sans-serif"];',
    '  edge [fontname="sans-serif", fontsize=10];',
    ...nodes.map((node) => `  ${node.id} [${nodeDot(node)}];`),
    ...edges.map(({ from, to, count, times, slow }) => {
      const label = times ? `${count}\n${durationText(times.medianMs)}` : String(count);
      const style = times ? (slow ? ', color=orangered' : '') : ', style=dashed';
      return `  ${from} -> ${to} [label=${quoted(label)}, penwidth=${(1 + (4 * count) / most).toFixed(1)}${style}];`;
    }),
    '}',
  ];
  return `${lines.join('\n')}\n`;
}

function nodeDot({ kind, name, count, waiting }: DrawnNode): string {
  const label = `${name}\n${count}${waiting > 0 ? `, ${waiting} wait` : ''}`;
  return `label=${quoted(label)}${kind === 'activity' ? '' : ', shape=ellipse, style=solid'}`;
}

function quoted(text: string): string {
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
}
