package federation

// exchangeCodes are the diagnoses of the catalog exchange: TW-4xxx.
var exchangeCodes = []CodeHelp{}
