// The drawn signs of the player: control icons and the marks that give every state a shape. Built as nodes, never as
// markup, so that no content policy stands in the way.

const SVG = 'http://www.w3.org/2000/svg';

/** Paths on a grid of 24, drawn as strokes. */
const ICONS = {
  play: ['M8 5v14l11-7z'],
  pause: ['M8 5v14', 'M16 5v14'],
  sound: ['M4 10v4h4l5 4V6L8 10z', 'M16.5 9a4 4 0 0 1 0 6', 'M19 6.5a8 8 0 0 1 0 11'],
  muted: ['M4 10v4h4l5 4V6L8 10z', 'M17 10l4 4', 'M21 10l-4 4'],
  pip: ['M3 5h18v14H3z', 'M12 12h6v4h-6z'],
  fullscreen: ['M4 9V4h5', 'M15 4h5v5', 'M20 15v5h-5', 'M9 20H4v-5'],
  windowed: ['M9 4v5H4', 'M20 9h-5V4', 'M15 20v-5h5', 'M4 15h5v5'],
  stats: ['M4 20V10', 'M10 20V4', 'M16 20v-7', 'M21 20H3'],
} as const;

export type IconName = keyof typeof ICONS;

/** A state's shape: live is filled, reconnecting is half, idle is a ring, errored is a cross. */
export type Mark = 'full' | 'half' | 'ring' | 'cross';

function svg(viewBox: string): SVGSVGElement {
  const node = document.createElementNS(SVG, 'svg');
  node.setAttribute('viewBox', viewBox);
  node.setAttribute('aria-hidden', 'true');
  return node;
}

function path(d: string, filled = false): SVGPathElement {
  const node = document.createElementNS(SVG, 'path');
  node.setAttribute('d', d);
  if (filled) {
    node.setAttribute('fill', 'currentColor');
    node.setAttribute('stroke', 'none');
  } else {
    node.setAttribute('stroke-linecap', 'round');
    node.setAttribute('stroke-linejoin', 'round');
  }
  return node;
}

export function icon(name: IconName): SVGSVGElement {
  const node = svg('0 0 24 24');
  for (const d of ICONS[name]) node.append(path(d));
  return node;
}

const RING = 'M6 1.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9z';

export function mark(shape: Mark): SVGSVGElement {
  const node = svg('0 0 12 12');
  node.classList.add('mark');
  if (shape === 'full') node.append(path('M6 1a5 5 0 1 1 0 10a5 5 0 1 1 0-10z', true));
  if (shape === 'half') node.append(path(RING), path('M6 1.5a4.5 4.5 0 0 1 0 9z', true));
  if (shape === 'ring') node.append(path(RING));
  if (shape === 'cross') node.append(path('M2 2l8 8'), path('M10 2l-8 8'));
  return node;
}

/** A line through the numbers, newest at the right; holes where there are none. */
export function sparkline(values: (number | null)[], target: number): SVGSVGElement {
  const width = 240;
  const height = 40;
  const node = svg(`0 0 ${width} ${height}`);
  node.setAttribute('preserveAspectRatio', 'none');
  node.classList.add('line');
  const known = values.filter((value) => value !== null);
  const top = Math.max(target * 1.25, ...known, 1);
  const y = (value: number): number => height - 1 - (Math.max(0, value) / top) * (height - 2);
  const axis = path(`M0 ${y(target).toFixed(1)}H${width}`);
  axis.classList.add('axis');
  axis.setAttribute('vector-effect', 'non-scaling-stroke');
  node.append(axis);
  let d = '';
  values.forEach((value, index) => {
    if (value === null) return;
    const gap = index === 0 || values[index - 1] === null;
    d += `${gap ? 'M' : 'L'}${((index / (values.length - 1)) * width).toFixed(1)} ${y(value).toFixed(1)}`;
  });
  const line = path(d || 'M0 0');
  line.setAttribute('vector-effect', 'non-scaling-stroke');
  node.append(line);
  return node;
}
