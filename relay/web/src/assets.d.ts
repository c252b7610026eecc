// Files that the bundler turns into text.

declare module '*.css' {
  const text: string;
  export default text;
}

declare module '*.hex' {
  const text: string;
  export default text;
}
