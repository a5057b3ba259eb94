# The types of options: a name, a check of one definition, and how several become one value.
{ lib }:
let
  inherit (builtins)
    all
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    genList
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    match
    substring
    toJSON
    ;
  inherit (lib)
    nameValuePair
    showOption
    filterAttrs
    evalModules
    allNames
    valueOf
    pushDown
    mergeDefinitions
    ;

  # All equal, or it is a conflict.
  mergeEqual =
    loc: values:
    if all (value: value == head values) values then
      head values
    else
      throw "the option `${showOption loc}' has conflicting definitions: ${toJSON values}";

  mkType =
    {
      name,
      check,
      merge ? mergeEqual,
      nested ? null,
      # What is wrong with the options inside.
      problems ? loc: if nested == null then [ ] else nested.problems loc,
    }:
    {
      inherit
        name
        check
        merge
        problems
        ;
      description = name;
    };

  types = rec {
    bool = mkType {
      name = "boolean";
      check = isBool;
    };
    str = mkType {
      name = "string";
      check = isString;
    };
    lines = str // {
      name = "lines";
      merge = _loc: concatStringsSep "\n";
    };
    int = mkType {
      name = "integer";
      check = isInt;
    };
    ints.positive = mkType {
      name = "positive integer";
      check = value: isInt value && value > 0;
    };
    port = mkType {
      name = "port";
      check = value: isInt value && value >= 0 && value <= 65535;
    };
    path = mkType {
      name = "path";
      check = value: isPath value || (isString value && substring 0 1 value == "/");
    };
    package = mkType {
      name = "package";
      check = value: isAttrs value && value.type or null == "derivation";
      merge = _loc: head;
    };
    anything = mkType {
      name = "anything";
      check = _value: true;
      merge =
        loc: values:
        if all isAttrs values && length values > 1 then
          (attrsOf anything).merge loc values
        else if all isList values then
          concatLists values
        else
          mergeEqual loc values;
    };
    enum =
      choices:
      mkType {
        name = "one of ${toJSON choices}";
        check = value: elem value choices;
      };
    strMatching =
      pattern:
      mkType {
        name = "string matching ${pattern}";
        check = value: isString value && match pattern value != null;
      };
    either =
      a: b:
      mkType {
        name = "${a.name} or ${b.name}";
        check = value: a.check value || b.check value;
        merge = loc: values: (if all a.check values then a else b).merge loc values;
      };
    nullOr =
      type:
      mkType {
        name = "null or ${type.name}";
        check = value: value == null || type.check value;
        merge =
          loc: values:
          if all (value: value == null) values then
            null
          else if elem null values then
            throw "the option `${showOption loc}' is both null and not"
          else
            type.merge loc values;
        nested = type;
      };
    listOf =
      type:
      mkType {
        name = "list of ${type.name}";
        check = isList;
        merge =
          loc: lists:
          concatLists (
            map (
              list:
              concatLists (
                genList (
                  i:
                  let
                    merged = mergeDefinitions (loc ++ [ "[${toString i}]" ]) type [ (elemAt list i) ];
                  in
                  if merged == null then [ ] else [ merged.value ]
                ) (length list)
              )
            ) lists
          );
        nested = type;
      };
    attrsOf =
      type:
      mkType {
        name = "attribute set of ${type.name}";
        check = isAttrs;
        merge =
          loc: sets:
          let
            plain = concatMap pushDown sets;
            merged = listToAttrs (
              map (
                name:
                nameValuePair name (
                  mergeDefinitions (loc ++ [ name ]) type (concatMap (set: valueOf name set) plain)
                )
              ) (allNames plain)
            );
          in
          mapAttrs (_name: merged: merged.value) (filterAttrs (_name: merged: merged != null) merged);
        nested = type;
      };
    submodule =
      module:
      mkType {
        name = "submodule";
        check = value: isAttrs value || isFunction value;
        merge =
          loc: values:
          (evalModules {
            inherit loc;
            # A set is configuration alone, even if it has something called options.
            modules = [ module ] ++ map (value: if isAttrs value then { config = value; } else value) values;
            specialArgs.name = elemAt loc (length loc - 1);
          }).config;
        problems =
          loc:
          (evalModules {
            inherit loc;
            modules = [ module ];
            specialArgs.name = "<name>";
          }).problems;
      };
  };
in
{
  inherit
    types
    ;
}
