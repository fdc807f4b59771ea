import { xml } from '../xml.ts';

/**
 * Colours of every picture, light and dark. A picture stands alone, or inside the console, which takes `style` out and has the same
 * classes in its own sheet.
 */
const STYLE = `
  :root { color-scheme: light dark; --paper: #ffffff; --line: #c3c9d2; --ink: #171b22; --soft: #5b6472; --edge: #7d8796; --node: #eef3fd; --node-line: #7ea2ea; --slow: #c2570c; --wait: #fdf1dc; --wait-line: #c98a1b; }
  @media (prefers-color-scheme: dark) { :root { --paper: #0f1216; --line: #3a424e; --ink: #e8ebf0; --soft: #97a1b0; --edge: #8b95a5; --node: #1a2436; --node-line: #4f77c4; --slow: #ff9f5a; --wait: #2d2412; --wait-line: #b98530; } }
  text { font: 12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; fill: var(--ink); }
  .paper { fill: var(--paper); }
  .name { font-size: 13px; font-weight: 600; }
  .note { font-size: 11px; fill: var(--soft); }
  .label { font-size: 11px; fill: var(--soft); }
  .node { fill: var(--node); stroke: var(--node-line); }
  .node.waits { fill: var(--wait); stroke: var(--wait-line); }
  .outer { fill: var(--paper); stroke: var(--edge); }
  .edge { fill: none; stroke: var(--edge); }
  .edge.plain { stroke-dasharray: 4 3; }
  .edge.slow { stroke: var(--slow); }
  .tip { fill: var(--edge); }
  .tip.slow, .label.slow, .note.slow { fill: var(--slow); }
  .axis { stroke: var(--line); }
  .q0 { stroke: #3f8f5f; } .q1 { stroke: #6f8fd8; } .q2 { stroke: #d99a2b; } .q3 { stroke: #cf4a3f; }
  .s0 { fill: #4a7fe0; } .s1 { fill: #1f9d9d; } .s2 { fill: #8a6ae0; } .s3 { fill: #d0702c; } .s4 { fill: #c2508a; } .s5 { fill: #6b9a2f; } .s6 { fill: #a0852a; } .s7 { fill: #7d8796; }
`;

export interface Picture {
  readonly width: number;
  readonly height: number;
  /** Read to those who do not see it. */
  readonly title: string;
  readonly body: string;
}

export function svg({ width, height, title, body }: Picture): string {
  const [w, h] = [Math.ceil(width), Math.ceil(height)];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${w} ${h}" width="${w}" height="${h}" role="img" aria-label="${xml(title)}"><style>${STYLE}</style><title>${xml(title)}</title><rect class="paper" width="${w}" height="${h}"/>
${body}
</svg>
`;
}

/** A number of an attribute, short. */
export const at = (n: number) => String(Math.round(n * 10) / 10);
