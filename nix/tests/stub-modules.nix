# `{ config, problems }`: the merged configuration, which throws where a definition refers to no
# option, and what is wrong with the declarations.
{ lib }:
let
  inherit (builtins)
    all
    attrNames
    concatMap
    elem
    filter
    foldl'
    functionArgs
    head
    intersectAttrs
    isFunction
    isPath
    length
    listToAttrs
    mapAttrs
    ;
  inherit (lib)
    nameValuePair
    showOption
    isOption
    defaultPriority
    allNames
    valueOf
    pushDown
    mergeDefinitions
    mkOverride
    ;

  evalModules =
    {
      modules,
      specialArgs ? { },
      loc ? [ ],
    }:
    let
      load =
        seen: module:
        let
          isFile = isPath module;
          opened = if isFile then import module else module;
          wanted = functionArgs opened;
          arguments = specialArgs // {
            inherit lib;
            config = tree;
          };
          set =
            if isFunction opened then
              opened (if wanted == { } then arguments else intersectAttrs wanted arguments)
            else
              opened;
          structured = set ? config || set ? options || set ? imports;
          stray = filter (name: !elem name [ "imports" "options" "config" ]) (attrNames set);
          here =
            if !structured then
              { config = set; }
            else if set ? config || set ? options then
              if stray == [ ] then set else throw "a module has options and config, and `${head stray}' beside them"
            else
              {
                inherit (set) imports;
                config = removeAttrs set [ "imports" ];
              };
          key = if isFile then [ (toString module) ] else [ ];
        in
        if isFile && elem (toString module) seen.files then
          seen
        else
          let
            below = loadAll (seen // { files = seen.files ++ key; }) (here.imports or [ ]);
          in
          below
          // {
            loaded = below.loaded ++ [
              {
                options = here.options or { };
                config = here.config or { };
              }
            ];
          };
      loadAll = foldl' load;
      inherit
        (loadAll {
          files = [ ];
          loaded = [ ];
        } modules)
        loaded
        ;

      declare =
        at: sets:
        listToAttrs (
          map (
            name:
            let
              found = concatMap (valueOf name) sets;
              path = at ++ [ name ];
            in
            nameValuePair name (
              if !all isOption found then
                if filter isOption found == [ ] then
                  declare path found
                else
                  throw "`${showOption path}' is an option, and has options below it"
              else if length found > 1 then
                throw "the option `${showOption path}' is declared twice"
              else
                head found
            )
          ) (allNames sets)
        );
      declared = declare loc (map (module: module.options) loaded);

      evaluate =
        path: declared: definitions:
        let
          sets = concatMap pushDown definitions;
        in
        mapAttrs (
          name: declaration:
          let
            here = path ++ [ name ];
            given = concatMap (valueOf name) sets;
            default = if declaration ? default then [ (mkOverride defaultPriority declaration.default) ] else [ ];
            merged = mergeDefinitions here declaration.type (given ++ default);
          in
          if !isOption declaration then
            evaluate here declaration given
          else if merged == null then
            throw "the option `${showOption here}' is used but not defined"
          else if declaration.readOnly or false && merged.count > 1 then
            throw "the option `${showOption here}' is read-only, but set more than once"
          else
            merged.value
        ) declared;
      tree = evaluate loc declared (map (module: module.config) loaded);

      undeclared =
        path: declared: definitions:
        let
          sets = concatMap pushDown definitions;
        in
        concatMap (
          name:
          let
            here = path ++ [ name ];
          in
          if !declared ? ${name} then
            [ (showOption here) ]
          else if isOption declared.${name} then
            [ ]
          else
            undeclared here declared.${name} (concatMap (valueOf name) sets)
        ) (allNames sets);
      unmatched = undeclared loc declared (map (module: module.config) loaded);

      problemsOf =
        path: declared:
        concatMap (
          name:
          let
            option = declared.${name};
            here = path ++ [ name ];
            lack = what: if option ? ${what} then [ ] else [ "${showOption here} has no ${what}" ];
          in
          if isOption option then
            lack "type" ++ lack "description" ++ (if option ? type then option.type.problems here else [ ])
          else
            problemsOf here option
        ) (attrNames declared);
    in
    {
      problems = problemsOf loc declared;
      config =
        if unmatched != [ ] then throw "the option `${head unmatched}' does not exist" else tree;
    };
in
{
  inherit
    evalModules
    ;
}
