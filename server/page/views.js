// The views, in the order of the navigation. `load` brings a view's module, whose default export is its component
// ({rest, query} → html); `style` its stylesheet; `role` is whose key it needs ("user", "author", "admin",
// "operator"): everybody else is told so in its place.
export const VIEWS = [
  {
    name: "compare", title: "Compare", icon: "columns", role: "user",
    load: () => import("./views/compare.js"), style: "views/compare.css",
  },
  {
    name: "norms", title: "Norms", icon: "book", role: "author",
    load: () => import("./views/norms.js"), style: "views/norms.css",
  },
  {
    name: "records", title: "Records", icon: "clock", role: "admin",
    load: () => import("./views/records.js"), style: "views/records.css",
  },
  {
    name: "reports", title: "Reports", icon: "chart", role: "user",
    load: () => import("./views/reports.js"), style: "views/reports.css",
  },
  {
    name: "running", title: "Running", icon: "pulse", role: "user",
    load: () => import("./views/running.js"), style: "views/running.css",
  },
];
